"""What the network is compared with: clinic, radiomics, radiologists."""
